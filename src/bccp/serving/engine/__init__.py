"""A model that answers: loaded on its fastest engine, followed when its alias moves, asked about many images at once."""
