"""A transformers model and several processes → stages with ordinary weight names, run by torch's pipeline schedules."""
