"""unique → corpus: scored by a quality model, labelled by domain, decontaminated, weighted and split."""
