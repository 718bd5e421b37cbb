"""How a model fits a slice of accelerators: mesh search, compiled programs, estimates."""
