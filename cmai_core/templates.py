"""Pages of Markdown from templates (Jinja2): `templates/` beside the module that writes a page."""

from __future__ import annotations

import re
from typing import Any


def render_markdown(package: str, name: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        package: dotted name of the package that holds the folder `templates`. name: of the file in it.
        values: what the template names. A name it needs and does not get is an error, not an empty text.

    Returns:
        The page, ending in one line break; blank lines that follow each other become one, so that a paragraph may
        be empty.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown
    )
    environment.filters |= {"g": lambda value: f"{value:g}", "thousands": lambda value: f"{value:,}"}
    page = environment.get_template(name).render(values)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"
