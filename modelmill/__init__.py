"""Modelmill: a raw web crawl → an aligned, evaluated, servable model, on one line that can be rerun from any stage."""
