"""Texts → texts without personal data: what might be some is found fast, then checked by kind."""
