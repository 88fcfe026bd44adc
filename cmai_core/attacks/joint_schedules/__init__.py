"""In which order attacks on picture and text take turns."""
