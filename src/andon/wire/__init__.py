"""Floor 7: other people's protocols, translated to the domain's verbs and back."""
