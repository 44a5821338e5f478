"""Schedules: changes of a flag that are planned for a time. Pure; stores run the decisions in their transactions."""
