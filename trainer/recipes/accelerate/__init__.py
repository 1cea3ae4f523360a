"""Configurations for `accelerate launch --config_file`."""
