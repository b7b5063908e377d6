"""The demo: Washington's shared bikes, from a tracked run to a release that breaks, is noticed, explained and put right."""
