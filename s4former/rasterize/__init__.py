"""Annotations of polygons, boxes and bitmaps as masks of class ids: `s4former rasterize DIR -o DIR/masks`."""
