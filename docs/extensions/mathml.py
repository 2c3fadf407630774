"""Formulas as MathML, which browsers show by themselves: the site needs no script from elsewhere."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOG = logging.getLogger(__name__)


def _as_docutils_knows(tex: str) -> str:
    """Write commands that its converter lacks as those that it has."""
    tex = tex.replace(r"\dots", r"\ldots").replace(r"\texttt", r"\mathtt")
    tex = re.sub(
        r"\\(log|exp|sin|cos|cot)(?![a-zA-Z])(?!\s*(\\left|\\[bB]ig|[(_^{]))", r"\\\1\\,", tex
    )  # as TeX spaces them
    return re.sub(r"\\([bB]igg?)(?=[(\[])", r"\\\1l", re.sub(r"\\([bB]igg?)(?=[)\]])", r"\\\1r", tex))


def _convert(node: nodes.Element, block: bool) -> str:
    try:
        found = tex2mathml(_as_docutils_knows(node.astext()), as_block=block)
        return found.replace("\N{REVERSE SOLIDUS OPERATOR}", "\N{SET MINUS}")  # which fonts have
    except MathError as error:
        LOG.warning("this formula has no MathML: %s\n%s", error, node.astext(), location=node)
        return f"<code>{node.astext()}</code>"


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(_convert(node, block=False))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula by itself."""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    self.body.append(_convert(node, block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Offer the renderer."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
