"""Lessons: each a file of data and small functions, drawn by the lab's page; nothing here knows of Streamlit."""
