"""Tests against real servers, in processes of their own."""
