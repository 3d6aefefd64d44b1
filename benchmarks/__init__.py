"""Speed, measured: ``make bench``. Nothing here is under the promise of same bytes."""
