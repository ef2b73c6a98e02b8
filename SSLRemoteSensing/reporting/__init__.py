"""Pages of HTML, each one file that asks for nothing else: of a scoring, a grid, mapped scenes."""
