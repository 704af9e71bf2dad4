"""One photo as a scene that can be looked at from beside: 3D gaussians, and a picture that turns a little."""
