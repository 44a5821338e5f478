"""Checks of a store and a cache for `flagsvc doctor`: each tries what a replica will do, and leaves nothing behind."""
