"""The commands of `cmai`, a file each."""
