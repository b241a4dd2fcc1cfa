"""Campaigns on Ray. The only room that knows Ray; it decides from rows of the store and keeps no truth of its own."""
