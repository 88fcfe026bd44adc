"""Models & about."""

import streamlit as st

st.write("soon")
