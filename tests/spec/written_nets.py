"""Nets as pycaffe's documentation writes them, and some it does not, for any module with pycaffe's NetSpec interface."""


def lenet(spec):
    L, P = spec.layers, spec.params
    n = spec.NetSpec()
    n.data, n.label = L.Data(batch_size=64, backend=P.Data.LMDB, source="mnist/train_lmdb",
                             transform_param=dict(scale=1. / 255), ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.conv2 = L.Convolution(n.pool1, kernel_size=5, num_output=50, weight_filler=dict(type="xavier"))
    n.pool2 = L.Pooling(n.conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


def caffenet(spec):
    L, P = spec.layers, spec.params

    def conv_relu(bottom, ks, nout, stride=1, pad=0, group=1):
        conv = L.Convolution(bottom, kernel_size=ks, stride=stride, num_output=nout, pad=pad, group=group)
        return conv, L.ReLU(conv, in_place=True)

    def fc_relu(bottom, nout):
        fc = L.InnerProduct(bottom, num_output=nout)
        return fc, L.ReLU(fc, in_place=True)

    def max_pool(bottom, ks, stride=1):
        return L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=ks, stride=stride)

    data, label = L.Data(source="imagenet/train_lmdb", backend=P.Data.LMDB, batch_size=256, ntop=2,
                         transform_param=dict(crop_size=227, mean_value=[104, 117, 123], mirror=True))
    conv1, relu1 = conv_relu(data, 11, 96, stride=4)
    pool1 = max_pool(relu1, 3, stride=2)
    norm1 = L.LRN(pool1, local_size=5, alpha=1e-4, beta=0.75)
    conv2, relu2 = conv_relu(norm1, 5, 256, pad=2, group=2)
    pool2 = max_pool(relu2, 3, stride=2)
    norm2 = L.LRN(pool2, local_size=5, alpha=1e-4, beta=0.75)
    conv3, relu3 = conv_relu(norm2, 3, 384, pad=1)
    conv4, relu4 = conv_relu(relu3, 3, 384, pad=1, group=2)
    conv5, relu5 = conv_relu(relu4, 3, 256, pad=1, group=2)
    pool5 = max_pool(relu5, 3, stride=2)
    fc6, relu6 = fc_relu(pool5, 4096)
    drop6 = L.Dropout(relu6, in_place=True)
    fc7, relu7 = fc_relu(drop6, 4096)
    drop7 = L.Dropout(relu7, in_place=True)
    fc8 = L.InnerProduct(drop7, num_output=1000)
    return spec.to_proto(L.SoftmaxWithLoss(fc8, label), L.Accuracy(fc8, label))


def corners(spec):
    """Item access with slashes, no top at all, lists and single values, several bottoms, generic parameter messages."""
    L, P = spec.layers, spec.params
    n = spec.NetSpec()
    n["in/data"] = L.Input(input_param=dict(shape=[dict(dim=[2, 3, 8, 8])]))
    n["a/conv"] = L.Convolution(
        n["in/data"], num_output=4, kernel_size=[3, 3], pad=1, bias_filler=dict(type="constant", value=2),
        param=[dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)], include=dict(phase=0, stage=["x", "y"]))
    n["a/up"] = L.Deconvolution(n["a/conv"], convolution_param=dict(num_output=2, kernel_size=2, stride=2))
    n["a/sum"] = L.Eltwise(n["a/conv"], n["in/data"], operation=P.Eltwise.SUM, coeff=[1, -0.5])
    n["a/sum/relu"] = L.ReLU(n["a/sum"], in_place=True, negative_slope=0.1)
    first, second = L.Slice(n["a/sum/relu"], ntop=2, slice_point=1, axis=1)
    n["second"] = second
    n["joined"] = L.Concat(first, second, L.Power(second, power=2), concat_param=dict(axis=1))
    n["python"] = L.Python(n["joined"], module="layers", layer="Mine", loss_weight=1, propagate_down=[True])
    n["silence"] = L.Silence(n["python"], ntop=0)
    n["alias"] = n["joined"]
    return n.to_proto()


ALL = (lenet, caffenet, corners)
