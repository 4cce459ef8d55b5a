"""The end of the way: every number by name (`summary.json`), and the page that is drawn from it. No torch here."""
