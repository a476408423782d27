"""Questions about pairs of real images, the source's and those that models write."""
