"""Facts of Caffe's solvers: the types, in the order of the older enum, and what each learning policy reads."""

SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
WITHOUT_MOMENTUM = ("AdaGrad", "RMSProp")  # types that abort when momentum is not 0
# The fields that each policy of the learning rate reads; Caffe takes 0 for one that is not given.
POLICIES = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}
