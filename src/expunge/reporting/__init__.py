"""Pages about a run, written from its record alone: no model, no torch.

`html.render`, `markdown.render` and `card.render` take the record (a plain dict, as `record.json` holds it) and
return the page as a string. The same record gives the same bytes. `comparison.write` does all this for a comparison.
"""
