"""An export as a whole: what may be asked for, the file in its form, and its model card."""

import json
from pathlib import Path

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, write_bytes, write_text
from SSLRemoteSensing.export import hub, layouts, onnx
from SSLRemoteSensing.export.model_card import MARK, model_card
from SSLRemoteSensing.export.source import Request, Source, open_source
from SSLRemoteSensing.models.timm_backbones import TimmBackbone


def write_export(request: Request) -> tuple[str, Path]:
    """Write the file and its model card; what the file holds, in words, and where the card is.

    Raises:
        UserError: what cannot be written, before anything is read; a checkpoint that does not have
            it; files that are there.
    """
    check(request)
    source = open_source(request.checkpoint)
    if request.result != "logits" and source.net is None:
        raise UserError(
            f"--result {request.result}: {request.checkpoint} has no classes, only a backbone"
        )
    make_folder(request.file.parent, "--output")
    summary, network, smp = write_form(source, request)
    card = request.file.parent / "README.md"
    write_text(card, model_card(source, request, network, smp))
    return summary, card


def check(request: Request) -> None:
    """Refuse before anything is read what could not be written."""
    output, form, file = request.output, request.form, request.file
    if form != "onnx" and (request.preprocess or request.result != "logits"):
        flag = "--preprocess" if request.preprocess else "--result"
        raise UserError(f"{flag}: only for --format onnx, which holds a graph")
    if form == "hub" and (output.is_file() or output.suffix in (".pth", ".safetensors")):
        raise UserError(f"--output {output}: name a folder, which holds what --format hub writes")
    if file.suffix == ".json" or file.is_dir() or file.name == "README.md":
        raise UserError(f"--output {output}: name a file for the weights, not a folder or card")
    if file.exists() and request.checkpoint.exists() and file.samefile(request.checkpoint):
        raise UserError(f"--output {output}: is the checkpoint itself; name another file")
    if (form in ("hub", "safetensors")) != (file.suffix == ".safetensors"):
        raise UserError(
            f"--output {output}: files of --format safetensors, and no others, end with "
            f".safetensors"
        )
    if request.overwrite:
        return
    files = [file]
    if form == "hub":
        files.append(output / hub.CONFIG)
    elif form not in ("onnx", "safetensors"):
        files.append(output.with_suffix(".json"))
    for path in files:
        if path.exists():
            raise UserError(f"--output {path}: is there already; pass --overwrite to replace it")
    card = file.parent / "README.md"
    if card.exists() and MARK not in card.read_text(errors="replace"):
        raise UserError(
            f"--output {output}: the {card.name} beside it was not written by this command; "
            f"choose another folder, or pass --overwrite to replace it"
        )


def write_form(source: Source, request: Request) -> tuple[str, bool, str | None]:
    """Write the file: what was written in words, whether it is a whole network, and smp's call."""
    output, form, card = request.output, request.form, source.public_card()
    is_tuned, name, call = source.net is not None, source.backbone.name, None
    network = f"{name} with {source.decoder_cfg['name']}" if is_tuned else name
    if form == "hub":
        return hub.write_hub(source, output, card, request.licence), False, None
    if form == "safetensors":
        weights = source.net.state_dict() if is_tuned else source.weights()
        checkpoints.write_safetensors(output, weights, card)
        return network, is_tuned, None
    if form == "onnx":
        texts = {"card": json.dumps(card)}
        data, worst = onnx.onnx_model(source, request.preprocess, request.result, texts)
        write_bytes(output, data)
        return f"{network}, within {worst:.1e} of the network in onnxruntime", is_tuned, None
    if isinstance(source.backbone, TimmBackbone) and form in ("torchvision", "smp"):
        raise UserError(
            f"--format {form}: {name} is none of its networks; take --format timm or hub"
        )
    if form == "smp":
        weights, call = layouts.smp_weights(source)
    else:
        weights = layouts.mmseg_weights(source) if form == "mmseg" else source.weights()
    if layouts.lacks_dilation(source, form):
        warn(
            f"--format {form}: its library has no {name} whose maps are no coarser than "
            f"1/{source.backbone.output_stride}, and gives other last maps: fine-tune it again "
            f"there, or take --format safetensors or onnx"
        )
    checkpoints.write_plain(output, weights, card)
    if form == "mmseg":
        print(layouts.mmseg_config(source, output.name))
    return call or f"the backbone alone, {name}", call is not None, call
