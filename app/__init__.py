"""The web lab. Only Streamlit code lives here; what it shows is computed by cmai_core."""
