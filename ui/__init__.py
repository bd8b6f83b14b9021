"""The page: static files that show what archives do, with a server behind them or without.

`PAGE` is the folder of the files, as a web server shows them: `index.html`, and `ui/` with the ES
modules, the style and the snake game as WebAssembly. `DOCS` is that of Swagger UI at `/docs`.
"""

from pathlib import Path

PAGE = Path(__file__).resolve().parent / "page"
DOCS = PAGE.parent / "docs"
