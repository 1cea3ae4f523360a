"""Recipes: what a stage is asked to do, as YAML files."""
