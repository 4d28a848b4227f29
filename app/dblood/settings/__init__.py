"""Settings by layer: ``common``, ``production`` (from common) and ``staging`` (from production)."""
