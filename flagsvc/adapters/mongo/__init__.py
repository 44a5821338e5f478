"""The flag store on MongoDB."""
