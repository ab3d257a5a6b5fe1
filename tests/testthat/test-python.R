test_that("environment variables choose Python, the most specific first", {
  local_mocked_bindings(py_available = function(...) FALSE, .package = "reticulate")
  fake <- withr::local_tempfile()
  file.create(fake)
  withr::local_envvar(SYSVI_PYTHON = fake, RETICULATE_PYTHON = "/usr/bin/env", VIRTUAL_ENV = "")
  expect_identical(choose_python()$path, fake)
  withr::local_envvar(SYSVI_PYTHON = "")
  expect_identical(choose_python()$path, "/usr/bin/env")
  withr::local_envvar(RETICULATE_PYTHON = "")
  folder <- withr::local_tempdir()
  dir.create(dirname(python_in_environment(folder)))
  file.create(python_in_environment(folder))
  withr::local_envvar(VIRTUAL_ENV = folder)
  expect_identical(choose_python(), list(
    path = python_in_environment(folder), why = "the environment variable VIRTUAL_ENV names it"
  ))
  withr::local_envvar(VIRTUAL_ENV = "", WORKON_HOME = folder, RETICULATE_VIRTUALENV_ROOT = folder)
  expect_null(choose_python()$path)
  withr::local_envvar(SYSVI_PYTHON = "/no/such/python")
  expect_sysvi_error(choose_python(), "variable SYSVI_PYTHON names /no/such/python, but there is no Python")
  expect_false(sysvi_available())
})

test_that("the engine is the one in this package, of the same version", {
  skip_without_engine()
  import_bridge()
  expect_identical(
    normalizePath(dirname(reticulate::import("sysvi")$`__file__`)), normalizePath(file.path(engine_path(), "sysvi"))
  )
  other <- list(`__version__` = "0.0.9", `__file__` = "/other/__init__.py")
  local_mocked_bindings(imported_module = function(name) other)
  expect_sysvi_error(import_bridge(), "has imported sysvi 0.0.9 from /other, .* restart R")
})

test_that("torch computes as fast and as exactly in R as in Python", {
  skip_without_engine()
  skip_on_os(c("mac", "windows"))
  import_bridge()
  code <- paste(
    "import torch; a = torch.randn(200, 400, generator=torch.Generator().manual_seed(0));",
    "total = float((a @ a.T).double().sum())"
  )
  here <- reticulate::py_run_string(code, local = TRUE)$total
  there <- processx::run(find_process_python(), c("-c", paste(code, "; print(repr(total))")))$stdout
  expect_identical(here, as.numeric(there))
})

test_that("the requirements are those of pyproject.toml", {
  file <- test_path("..", "..", "pyproject.toml")
  skip_if_not(file.exists(file))
  lines <- readLines(file)
  start <- which(lines == "dependencies = [")
  end <- which(lines == "]")
  listed <- lines[(start + 1):(min(end[end > start]) - 1)]
  expect_setequal(gsub("[ \",]", "", listed), python_requirements)
  extra <- grep("^report = ", lines, value = TRUE)
  expect_identical(regmatches(extra, gregexpr("[a-z0-9]+>=[0-9.]+", extra))[[1L]], report_requirements)
})

test_that("the doctor says what is missing and how to install it", {
  skip_without_engine()
  found <- sysvi_doctor() |> suppressMessages()
  expect_identical(found$problems, character())
  expect_true(all(c("sysVI", "R", "Python", "torch") %in% names(found$versions)))
  local_mocked_bindings(python_requirements = c("numpy>=1", "no-such-package>=2"))
  expect_message(found <- sysvi_doctor(), "lacks no-such-package")
  expect_match(found$mend, "pip install 'no-such-package>=2'")
  local_mocked_bindings(choose_python = function() list(path = "/no/python", why = "a test"))
  expect_match(diagnose()$problems, "/no/python does not run")
  local_mocked_bindings(choose_python = function() list(path = NULL, why = "a test"))
  expect_identical(diagnose()$mend, "sysvi_install()")
})

test_that("sysvi_device() names the device", {
  skip_without_engine()
  expect_match(sysvi_device("cpu"), "^cpu \\([0-9]+ threads\\)$")
  expect_match(sysvi_device("cpu", process = "separate"), "^cpu \\([0-9]+ threads\\)$")
  expect_sysvi_error(sysvi_device("cuda:99"), "finds no such CUDA device")
})

test_that("torch is installed first, from the wheels for the machine", {
  calls <- list()
  local_mocked_bindings(
    virtualenv_exists = function(...) FALSE,
    virtualenv_create = function(...) calls <<- c(calls, list(c("create", ..1))),
    virtualenv_install = function(envname, packages, pip_options = NULL, ...) {
      calls <<- c(calls, list(c(packages[1], pip_options)))
    },
    virtualenv_python = function(...) "python", .package = "reticulate"
  )
  local_mocked_bindings(is_linux = function() TRUE)
  suppressMessages(sysvi_install("some", gpu = FALSE))
  expect_identical(calls[[1]], c("create", "some"))
  expect_identical(calls[[2]], c("torch>=2.4", "--index-url", cpu_wheels))
  expect_identical(calls[[3]][1], python_requirements[1])
  calls <- list()
  suppressMessages(sysvi_install("some", gpu = TRUE))
  expect_identical(calls[[2]], "torch>=2.4")
})

test_that("the error of a separate process that failed has its last messages", {
  local_mocked_bindings(
    find_process_python = function() Sys.which("false"), import_bridge = function() stop("not used")
  )
  expect_sysvi_error(sysvi_device(process = "separate"), "ended with status 1: run `sysVI::sysvi_doctor\\(\\)`")
})

test_that("where reticulate provides Python, another R session finds it", {
  local_mocked_bindings(choose_python = function() list(path = NULL, why = "a test"))
  local_mocked_bindings(r = function(...) "/some/python", .package = "callr")
  expect_identical(find_process_python(), "/some/python")
  local_mocked_bindings(r = function(...) stop("uv is not there"), .package = "callr")
  expect_sysvi_error(find_process_python(), "Python was not found: run sysvi_install.*uv is not there")
})

test_that("SimulateSystems() has the arguments of the engine and refuses others", {
  expect_sysvi_error(SimulateSystems(foo = 1), "SimulateSystems\\(\\) has no argument 'foo'.* 'n_systems'")
  expect_sysvi_error(SimulateSystems(n_types = NULL), "`n_types` must be a number, not NULL")
  expect_sysvi_error(SimulateSystems(NA), "`n_cells` must be a whole number, not NA")
  skip_without_engine()
  import_bridge()
  engine <- reticulate::py_eval(
    "list(__import__('inspect').signature(__import__('sysvi').datasets.simulate_systems).parameters)"
  )
  expect_setequal(c("n_cells", "n_genes", "seed", simulation_settings), engine)
})

test_that("simulated counts are the engine's", {
  skip_without_engine()
  cells <- SimulateSystems(60, 40, n_types = 3L, n_private = 0L, n_markers = 5L, n_programme_genes = 5L, seed = 2)
  expect_equal(dim(cells$counts), c(40L, 60L))
  expect_identical(rownames(cells$metadata), colnames(cells$counts))
  x <- reticulate::py_eval(paste0(
    "__import__('sysvi').datasets.simulate_systems(60, 40, n_types=3, n_private=0, n_markers=5, n_programme_genes=5,",
    "seed=2).X.toarray().T"
  ))
  expect_equal(unname(as.matrix(cells$counts)), x)
  expect_equal(format_duration(c(75)), "1m 15s")
  expect_equal(c(format_duration(3600), format_duration(0.2)), c("1h 0m 0s", "0s"))
})
