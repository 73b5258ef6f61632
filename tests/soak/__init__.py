"""`make soak`: traffic and troubles for as long as one likes, then an exact balance of everything that was sent."""
