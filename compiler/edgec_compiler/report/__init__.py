"""report.html: what was compiled and how good it is, on one self-contained page for people."""

from edgec_compiler.report.index import index_page
from edgec_compiler.report.page import page

__all__ = ["index_page", "page"]
