"""What changes in place in a notebook: one output that is replaced. It needs IPython alone, no widgets."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = 110
FORMAT = '<pre style="white-space:pre;line-height:normal">{code}</pre>'


class NotebookLive:
    """As rich's `Live`, which would ask for ipywidgets."""

    def __init__(self) -> None:
        self._output: Any = None
        self._shown = ""

    def update(self, renderable: RenderableType, refresh: bool = True) -> None:
        """Show this in the place of what was shown before."""
        from rich.console import Console

        console = Console(
            file=StringIO(), record=True, width=COLUMNS, force_jupyter=False, force_terminal=True, color_system="256"
        )
        console.print(renderable)
        self._show(console.export_html(code_format=FORMAT, inline_styles=True))

    def stop(self) -> None:
        """Leave nothing behind."""
        self._show("")

    def _show(self, html: str) -> None:
        from IPython.display import HTML, display

        if html == self._shown:
            return
        self._shown = html
        if self._output is None:
            self._output = display(HTML(html), display_id=True)
        else:
            self._output.update(HTML(html))
