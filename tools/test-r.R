# Run the tests of the R package and print one line with the counts. In CI no test may be skipped.
results <- as.data.frame(testthat::test_local(".", reporter = "summary", stop_on_failure = FALSE))
failed <- sum(results$failed) + sum(results$error)
skipped <- sum(results$skipped)
cat(sprintf("R: %d passed, %d failed, %d skipped\n", sum(results$passed), failed, skipped))
quit(status = as.integer(failed > 0 || (Sys.getenv("CI") == "true" && skipped > 0)))
