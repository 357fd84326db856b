//! The small upstream that comes with tidegate: takes CloudEvents over HTTP, deduplicates them, keeps them on disk, shows them.
