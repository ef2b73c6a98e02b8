// Elements whose own text has less contrast with what lies behind it than WCAG's 4.5.
() => {
  const numbers = text => {
    const found = text.match(/[\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? found.map((v, i) => (i < 3 ? v * 255 : v)) : found;
  };
  const light = rgb => {
    const [r, g, b] = rgb.slice(0, 3).map(v => v / 255)
      .map(v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      layers.push(colour.length === 3 ? [...colour, 1] : colour);
    }
    return layers.reverse().reduce(
      (under, [r, g, b, a]) => [r, g, b].map((v, i) => a * v + (1 - a) * under[i]),
      [255, 255, 255]);
  };
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || ["title", "STYLE"].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const inSvg = e.namespaceURI.endsWith("svg");
    const a = light(numbers(inSvg ? style.fill : style.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${e.tagName}.${e.className} ${e.textContent.slice(0, 30)} ${ratio}`);
  }
  return faint;
}
