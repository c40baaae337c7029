"""One HTML file that says what was trained, measured and found, made of what its runs left."""

from cxr.report.contents import contents
from cxr.report.page import render, template_digest
from cxr.report.records import Record, Records

__all__ = ["Record", "Records", "contents", "render", "template_digest"]
