"""Everything that touches the disk: gate, marks, atomic writes, run store."""
