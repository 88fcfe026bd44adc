"""Cross-Modal Adversarial Immunization: attacks, defences and trustworthy evaluation for vision-language models."""

__version__ = "0.1.0"
