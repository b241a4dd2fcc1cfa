"""The coordinator: HTTP for boards and people, SQL as the only truth, Ray as the engine, planning, reports."""
