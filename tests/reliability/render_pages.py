"""Digests of the pages of the built-in site, rendered in this process and in an order of its own; printed as JSON.

Run as a script: `python render_pages.py SEED PACKAGE...`. The site gives its renderers an environment without anything
of the machine's; here they get this process's, so that what a page takes from it shows.
"""

import hashlib
import json
import os
import random
import sys

from modelmill.tasks.ingest.documentation.catalog import page_urls
from modelmill.tasks.ingest.documentation.render import DocumentationPage, folders_of_this_machine, prepare, render

if __name__ == "__main__":
    seed, *packages = sys.argv[1:]
    prepare()
    urls = page_urls(tuple(packages))
    formatter, folders = DocumentationPage(urls), folders_of_this_machine()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # modules print when they are imported
    pages = {name: render(name, formatter, folders) for name in random.Random(seed).sample(list(urls), len(urls))}
    answers.write(json.dumps({name: hashlib.sha256(page.encode()).hexdigest() for name, page in sorted(pages.items())}))
