"""Methods of a study against one of them: mean differences of their mIoU, with intervals."""

from pathlib import Path

from ..commands.archive import LEVEL, Comparison
from .page import BLACK, EDGE, GREY, LINE, SMALL, WIDTH, new_figure

HEAD = 5  # lines of text above and below the methods of a study


def draw_differences(compared: dict[str, dict[str, Comparison]], base: str, output: Path) -> None:
    """Writes a figure of a panel for every study and protocol, a line for each method; dark where the interval leaves out 0."""
    rows = [len(methods) for methods in compared.values()]
    figure = new_figure(WIDTH, LINE * sum(1.5 * count + HEAD for count in rows))
    panels = figure.subplots(len(rows), squeeze=False, sharex=True, height_ratios=[count + HEAD for count in rows])[:, 0]
    for panel, (title, methods) in zip(panels, compared.items()):
        methods = dict(sorted(methods.items(), key=lambda item: -item[1].difference))
        panel.axvline(0, color=EDGE, linewidth=0.8)
        for place, of in enumerate(methods.values()):
            colour = BLACK if of.low > 0 or of.high < 0 else GREY
            panel.plot([of.low, of.high], [place, place], color=colour, linewidth=1.2, solid_capstyle="butt")
            panel.plot(of.difference, place, "o", color=colour, markersize=4)
        panel.set_yticks(range(len(methods)), [f"{method} ({of.pairs})" for method, of in methods.items()])
        panel.set_ylim(len(methods) - 0.4, -0.6)
        panel.tick_params(length=0, labelsize=SMALL)
        panel.spines[["left", "right", "top"]].set_visible(False)
        panel.set_title(title, loc="left")
    panels[-1].set_xlabel(f"points of mIoU above {base}, mean over pairs (how many) and {LEVEL} % interval")
    figure.savefig(output, dpi=200, bbox_inches="tight", metadata={"Date": None} if output.suffix == ".svg" else None)
