"""The database. The only room that knows SQLAlchemy: the store in front, tables and migrations behind it."""
