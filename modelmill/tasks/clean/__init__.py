"""Pages → documents: address, language, heuristic rules, safety, personal data."""
