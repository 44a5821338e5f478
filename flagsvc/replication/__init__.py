"""What keeps the view and the shared cache right."""
