"""Throwaway hosts, registry and backup server on the local Docker Engine, for the demo and the tests."""
