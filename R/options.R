#' Settings that are rarely changed
#'
#' Settings of the model and of its training that are not arguments of [RunSysVI()]
#' itself. The defaults are those of the engine. Options that are not given are left
#' to the engine, which takes them from the preset if there is one.
#'
#' @param kl_weight,reconstruction_weight,adversarial_weight Weights of the KL
#'   divergence, of the reconstruction loss, and of the loss of an adversary that
#'   predicts the system from the embedding (0: none). A number, or `c(value,
#'   start, end)` for a ramp: 0 until the fraction `start` of training, then linear
#'   up to `value` at `end`.
#' @param prior Prior of the latent dimensions: `"vamp"` (mixture of the posteriors
#'   of trainable pseudo-inputs), `"gmm"` (Gaussian mixture) or
#'   `"standard_normal"`.
#' @param mixture_share Share of a `"vamp"` or `"gmm"` prior in the KL divergence;
#'   the standard normal prior has the rest. A number is the share reached by a
#'   ramp from a tenth to six tenths of training; `c(share, start, end)` sets the
#'   ramp as well. `c(1, 0, 0)`, as in the paper, uses the mixture alone from the
#'   first step.
#' @param n_prior_components Number of prior components, 1 or more.
#' @param mixture Whether the prior components mix in each latent `"dimension"`
#'   separately (as in the code of the paper) or `"joint"`ly.
#' @param pseudoinputs Cells with which the prior components start: `"random"`,
#'   `"system"` (of `pseudoinputs_system`), `"balanced_system"` (equal numbers from
#'   every system), `"balanced_label"` (equal numbers from every label in
#'   `pseudoinputs_label`) or, for `prior = "gmm"`, `"noise"`.
#' @param pseudoinputs_system Name of a system.
#' @param pseudoinputs_label Name of a metadata column, or a vector named by cell.
#' @param trainable_priors Whether the prior components are trained or stay as they
#'   start.
#' @param n_hidden,n_layers,dropout_rate Width and number of hidden layers, and
#'   dropout rate, of encoder and decoder.
#' @param out_var_mode Variance of the expression likelihood: one per gene
#'   (`"feature"`) or one per cell and gene (`"sample_feature"`).
#' @param covariates_in_mean Whether covariates also add to the mean expression of
#'   each gene directly, besides entering the hidden layers.
#' @param covariates_in_hidden Whether covariates enter the hidden layers of the
#'   decoder, or only the mean expression of each gene. The default preset has `TRUE`
#'   for two systems and `FALSE` for more, which keeps cell types of single systems
#'   apart.
#' @param initialisation Start of training: effects of the covariates and principal
#'   components of the expression (`"linear"`), random combinations of the
#'   components (`"data"`), or random weights (`"random"`).
#' @param embed_categorical_covariates,embedding_dim Whether to learn a vector of
#'   `embedding_dim` numbers for each category of a covariate instead of using a
#'   one-hot code; for covariates with many categories.
#' @param swapped_covariates Covariates other than the system in the cycle: those of
#'   a random cell of the other system (`"resampled"`), those of the cell itself
#'   (`"observed"`) or none (`"zero"`).
#' @param weight_systems Whether all systems have the same weight in the loss,
#'   whatever their number of cells.
#' @param batch_size Number of cells in a minibatch; `NULL` chooses it from the
#'   number of cells.
#' @param lr,lr_schedule,weight_decay,eps,clip_norm Learning rate (`NULL` chooses it
#'   from the minibatch size), its schedule (`"constant"` or `"cosine"`), weight
#'   decay and epsilon of Adam, and the norm at which gradients are clipped (`NULL`:
#'   not at all).
#' @param train_size,early_stopping,patience Fraction of cells to train on (`NULL`:
#'   0.9 with `early_stopping`, otherwise all), and whether to stop when the loss on
#'   the other cells has not improved for `patience` epochs.
#' @param precision Precision of matrix products in hidden layers: `"bfloat16"`,
#'   `"float32"`, or `"auto"`, which is bfloat16 where the processor has
#'   instructions for it.
#' @param min_cells When variable genes are selected, a gene must be expressed in
#'   more than this number of cells of every system.
#'
#' @return A list of class `sysvi_options` with the options that were given, for the
#'   argument `options` of [RunSysVI()].
#' @export
#' @examples
#' sysvi_options(kl_weight = 0.5, n_hidden = 256)
sysvi_options <- function(kl_weight = 1, reconstruction_weight = 1, adversarial_weight = 0,
                          prior = c("vamp", "gmm", "standard_normal"), mixture_share = c(1, 0.1, 0.6),
                          n_prior_components = 5L, mixture = c("dimension", "joint"),
                          pseudoinputs = c("random", "system", "balanced_system", "balanced_label", "noise"),
                          pseudoinputs_system = NULL, pseudoinputs_label = NULL, trainable_priors = TRUE,
                          n_hidden = 128L, n_layers = 2L, dropout_rate = 0.1,
                          out_var_mode = c("feature", "sample_feature"), covariates_in_mean = TRUE,
                          covariates_in_hidden = TRUE,
                          initialisation = c("linear", "data", "random"),
                          embed_categorical_covariates = FALSE, embedding_dim = 5L,
                          swapped_covariates = c("resampled", "observed", "zero"), weight_systems = FALSE,
                          batch_size = NULL, lr = NULL, lr_schedule = c("constant", "cosine"),
                          weight_decay = 1e-6, eps = 0.01, clip_norm = NULL,
                          train_size = NULL, early_stopping = FALSE, patience = 20L,
                          precision = c("auto", "float32", "bfloat16"), min_cells = 20L) {
  given <- intersect(names(formals()), names(match.call()))
  options <- mget(names(formals()))
  options$prior <- rlang::arg_match(prior)
  options$mixture <- rlang::arg_match(mixture)
  options$pseudoinputs <- rlang::arg_match(pseudoinputs)
  options$out_var_mode <- rlang::arg_match(out_var_mode)
  options$initialisation <- rlang::arg_match(initialisation)
  options$swapped_covariates <- rlang::arg_match(swapped_covariates)
  options$lr_schedule <- rlang::arg_match(lr_schedule)
  options$precision <- rlang::arg_match(precision)
  check_weight(kl_weight)
  check_weight(reconstruction_weight)
  check_weight(adversarial_weight)
  check_weight(mixture_share)
  check_whole_number(n_prior_components)
  check_bool(trainable_priors)
  check_whole_number(n_hidden)
  check_whole_number(n_layers)
  check_number(dropout_rate)
  check_bool(covariates_in_mean)
  check_bool(covariates_in_hidden)
  check_bool(embed_categorical_covariates)
  check_whole_number(embedding_dim)
  check_bool(weight_systems)
  check_whole_number(batch_size, null_allowed = TRUE)
  check_number(lr, null_allowed = TRUE)
  check_number(weight_decay)
  check_number(eps)
  check_number(clip_norm, null_allowed = TRUE)
  check_number(train_size, null_allowed = TRUE)
  check_bool(early_stopping)
  check_whole_number(patience)
  check_whole_number(min_cells)
  if (!is.null(pseudoinputs_system)) check_string(pseudoinputs_system)
  structure(drop_null(options[given]), class = "sysvi_options")
}

check_options <- function(options) {
  if (!inherits(options, "sysvi_options")) sysvi_abort("{.arg options} must be a value of {.fn sysvi_options}.")
}

#' @export
print.sysvi_options <- function(x, ...) {
  cat("<sysvi_options>\n")
  for (name in names(x)) cat(sprintf("  %s = %s\n", name, paste(format(x[[name]]), collapse = ", ")))
  if (!length(x)) cat("  all settings have their defaults\n")
  invisible(x)
}
