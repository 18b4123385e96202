"""Tests of published papers: the propositions of Selective Steering, traits, and steering externalities."""
