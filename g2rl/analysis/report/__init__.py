"""One HTML page about a run, or about several: everything is inside, so it opens without a network.

facts.py        what one run left on disk, read once
safe_text.py    model output as text that cannot hide or break anything
responses.py    the responses that the page can show, chosen within a budget and packed
drawings.py     figures as SVG whose colours follow the page, with their numbers as a table
one_run.py      the sections about a single run
several_runs.py the sections that compare runs
page.py         puts the sections into the template
assets/         the template, the style and the script of the page
"""
