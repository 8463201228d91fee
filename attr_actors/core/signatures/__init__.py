"""The failure taxonomy as data, and its compiled multi-pattern databases.

Hold in mind: the rows are the knowledge, one TOML file per family; everything here only reads, checks and compiles them.
"""
