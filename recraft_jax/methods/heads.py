"""Linear source heads on frozen states, fitted to convergence.

A head is a pair of numpy arrays: kernel `[d k]` and bias `[k]`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
import sklearn.linear_model

from recraft_jax.losses import task as task_losses

Head = tuple[np.ndarray, np.ndarray]
STRENGTHS = np.logspace(-3, 2, 6)


def choose(
    fit: Callable[..., Head], train, val, num_classes: int
) -> tuple[Head, float]:
    """Fit at every strength and keep the one with the least log-loss on `val`.

    Args:
      fit: `logistic` or `double_softmax`.
      train: states `[n d]` and labels `[n]` to fit on.
      val: the same to choose on.
      num_classes: k.

    Returns:
      The head, and its strength.
    """
    states, labels = val

    def log_loss(head: Head) -> float:
        return float(-log_probs(head, states)[np.arange(len(labels)), labels].mean())

    found = [(fit(*train, num_classes, strength), strength) for strength in STRENGTHS]
    return min(found, key=lambda pair: log_loss(pair[0]))


def logistic(states, labels, num_classes: int, strength: float) -> Head:
    """Fit a multinomial logistic regression.

    Args:
      states: `[n d]`.
      labels: `[n]`; if all are of one class the head always says so.
      num_classes: k; a class without a sample gets a hopeless bias.
      strength: the inverse of the L2 penalty, scikit-learn's C.
    """
    kernel = np.zeros((states.shape[1], num_classes), np.float32)
    bias = np.full(num_classes, -30.0, np.float32)
    seen = np.unique(labels)
    if len(seen) == 1:  # scikit-learn refuses it
        bias[seen] = 0.0
        return kernel, bias
    model = sklearn.linear_model.LogisticRegression(C=strength, max_iter=1000)
    model.fit(states, labels)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        kernel[:, model.classes_[1]] = model.coef_[0]
        bias[model.classes_] = [0.0, model.intercept_[0]]
    else:
        kernel[:, model.classes_] = model.coef_.T
        bias[model.classes_] = model.intercept_
    return kernel, bias


def double_softmax(states, labels, num_classes: int, strength: float) -> Head:
    """Fit the head that minimises the cross-entropy of soft-maxed probabilities.

    What the released code does for text (D14). The loss stays above log(1 + (K - 1) /
    e), and its gradients are flat. Arguments as of `logistic`.
    """
    states, labels = jnp.asarray(states), jnp.asarray(labels)
    size = states.shape[1] * num_classes

    def unpack(flat):
        return flat[:size].reshape(-1, num_classes), flat[size:]

    @jax.jit
    @jax.value_and_grad
    def objective(flat):
        kernel, bias = unpack(flat)
        logits = states @ kernel + bias
        loss = task_losses.double_softmax_cross_entropy(logits, labels).sum()
        return strength * loss + jnp.sum(kernel**2) / 2

    def evaluate(flat):
        value, grad = objective(jnp.asarray(flat, jnp.float32))
        return float(value), np.asarray(grad, np.float64)

    start = np.zeros(size + num_classes)
    flat = scipy.optimize.minimize(evaluate, start, jac=True, method="L-BFGS-B").x
    kernel, bias = unpack(flat.astype(np.float32))
    return kernel, bias


def log_probs(head: Head, states) -> np.ndarray:
    """Log-probabilities `[n k]` of frozen states `[n d]`, in float64."""
    kernel, bias = (part.astype(np.float64) for part in head)
    return scipy.special.log_softmax(states @ kernel + bias, axis=1)
